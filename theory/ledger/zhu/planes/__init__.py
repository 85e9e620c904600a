"""Z4, Z10 and Z11 off the line: in the plane and in d = 5."""
