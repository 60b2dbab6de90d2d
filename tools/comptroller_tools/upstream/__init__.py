"""MCP servers of other people as sources: started or reached, kept, pinned, and never trusted."""
