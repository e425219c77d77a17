"""Publishing, converting and exporting."""
