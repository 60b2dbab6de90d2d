"""What a call may spend: limits, the ledger of holds, tasks with their steps, and counted history."""
