"""`medsa-export`: trained adapters for other programs and other people, and published ones for
this one."""
