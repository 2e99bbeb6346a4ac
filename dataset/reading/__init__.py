"""Files as people have them, opened, unpacked and cut into rows."""
