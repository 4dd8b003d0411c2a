"""pyatm beside what a user would pick instead; needs the dependency group `bench`."""
