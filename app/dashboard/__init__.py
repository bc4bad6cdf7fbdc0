"""The front end: its sources here, its build in `dist`, which the web application serves."""
