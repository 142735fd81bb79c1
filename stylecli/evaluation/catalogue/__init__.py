"""The metrics by what they ask about: for each its function and its row of the table."""
