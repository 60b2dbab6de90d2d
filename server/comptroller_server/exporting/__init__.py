"""The record for other programs: lines that can be proved, rows for a spreadsheet, events for a security team."""
