"""Everything is killed at any instant, under load; a history is recorded and judged afterwards."""
