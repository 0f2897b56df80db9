"Names that TRL imports."


class NCCLTrainerSendWeightsArgs: ...


class NCCLWeightTransferEngine: ...
