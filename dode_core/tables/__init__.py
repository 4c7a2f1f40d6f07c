"""The lambda table, its file, and where files are. Knows solve."""
