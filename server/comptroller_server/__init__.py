"""The product as a process: config, composition, the pipeline, the MCP face and the command line."""

__version__ = "0.1.0"
