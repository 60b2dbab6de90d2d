"""May it run, and who must agree: Cedar decisions, rules from the config, approvals and switches."""
