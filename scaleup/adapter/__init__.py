"""Pipelines of diffusers as velocity models on the rectified-flow path x_t = t x_1 + (1 - t) x_0.

opening   open_model: a folder or a hub name -> ImageModel
model     ImageModel: what a pipeline is in theory's terms; prompts, decoder, encoder
clocks    the network's own time and scaling, and how they relate to the path
prompts   Prompts: texts embedded once, indexed by conditions
velocity  NetworkVelocity, Guided
sampling  sample: the ODE over the covered times
auxiliary flow_network: networks of the pipeline's kind, cut down, that methods train beside

Only this package knows schedulers, integer steps and the range of times that a schedule covers.
"""

from scaleup.adapter.clocks import Clock, FlowClock, VPClock
from scaleup.adapter.model import ImageModel
from scaleup.adapter.opening import open_model
from scaleup.adapter.prompts import Prompts
from scaleup.adapter.sampling import sample, sampling_times
from scaleup.adapter.velocity import Guided, NetworkVelocity, prompt_index

__all__ = [
    "Clock",
    "FlowClock",
    "Guided",
    "ImageModel",
    "NetworkVelocity",
    "Prompts",
    "VPClock",
    "open_model",
    "prompt_index",
    "sample",
    "sampling_times",
]
