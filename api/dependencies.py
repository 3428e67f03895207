"""FastAPI dependencies of the routes."""

from typing import Annotated

from fastapi import Depends, Request

from api.middleware.auth import Caller, get_caller
from api.service import Gateway


def get_gateway(request: Request) -> Gateway:
    """The gateway of this process."""
    gateway: Gateway = request.app.state.gateway
    return gateway


GatewayDep = Annotated[Gateway, Depends(get_gateway)]
CallerDep = Annotated[Caller, Depends(get_caller)]
