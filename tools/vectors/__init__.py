"""What the files in spec/vectors hold, put together byte by byte without tvcodec."""
