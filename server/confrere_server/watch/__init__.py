"""How the server is, and how runs stand, for those who may only look."""
