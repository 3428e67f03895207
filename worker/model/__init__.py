"""Networks, their front end, and the directory format that stores both."""
