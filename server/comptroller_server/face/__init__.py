"""Bytes and clients: framing, stdio, HTTP, who asks, and the MCP face. Nothing here decides anything."""
