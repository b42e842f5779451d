"""Decoders that go on being used: finished runs opened, applied to new recordings, and shared."""
