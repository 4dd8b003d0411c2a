"""Each guard taken away in turn, on a copy; some test has to fail."""
