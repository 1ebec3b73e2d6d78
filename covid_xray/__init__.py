"""A client of the service, synchronous and asynchronous. Research software, no medical device.

    from covid_xray import Client

    with Client("http://127.0.0.1:8000") as client:
        print(client.predict("xray.png").label)

It needs the extra `client` of the package `covid-xray`, and nothing of the service.
"""

from covid_xray.answers import (
    Acceptance,
    DicomInstance,
    Heatmap,
    ImageRead,
    Model,
    Prediction,
    Problem,
    ReadWarning,
    Version,
    Versions,
)
from covid_xray.client import AsyncClient, Client, Image
from covid_xray.errors import CovidXrayError, ProblemReceived, Unreachable, UnusableAnswer
from covid_xray.retries import Retries

__all__ = [
    "Acceptance",
    "AsyncClient",
    "Client",
    "CovidXrayError",
    "DicomInstance",
    "Heatmap",
    "Image",
    "ImageRead",
    "Model",
    "Prediction",
    "Problem",
    "ProblemReceived",
    "ReadWarning",
    "Retries",
    "Unreachable",
    "UnusableAnswer",
    "Version",
    "Versions",
]
