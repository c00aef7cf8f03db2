"""Where images come from: whole arrays, or collections of encoded images that are read one by one."""
