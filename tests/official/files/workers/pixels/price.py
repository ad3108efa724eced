from vastai.serverless.server.lib.data_types import JsonDataException


def pixels(payload):
    if payload.get("width", 1) < 1:
        raise JsonDataException({"width": "must be 1 or more"})
    return payload.get("width", 512) * payload.get("height", 512) / 1000
