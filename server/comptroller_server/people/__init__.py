"""Where a person is asked at the client, and who goes without one."""
