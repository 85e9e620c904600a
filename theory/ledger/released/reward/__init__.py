"""N1 and N7: what the released reward mapping makes of rewards."""
