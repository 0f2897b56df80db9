"Names that TRL imports."


class StructuredOutputsParams:
    def __init__(self, **options):
        self.__dict__.update(options)
