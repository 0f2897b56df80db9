"Names that TRL imports."
