"""Who is who in a study: keys, certificates, and the mutually authenticated connection."""
