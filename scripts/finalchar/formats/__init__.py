"""The outside world's files: readers and writers, one format per module."""
