"""The study's own authorities, its roster of sites, and what is sealed for them."""
