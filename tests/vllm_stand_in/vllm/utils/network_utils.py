"Names that TRL imports."


def get_ip():
    return "127.0.0.1"
