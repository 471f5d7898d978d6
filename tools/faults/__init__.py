"""What must not go wrong: hostile files, failing disks, kills and power cuts, many times over."""
