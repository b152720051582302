"""One layer, step by step, with this network's own numbers.

`follow` carries images through its arithmetic, `layer` adds what observers make of its tensors, `page` puts both into
words, tables and pictures, a document that `quant_sweep.report` renders.
"""

from quant_sweep.explain.dataflow import check_layer
from quant_sweep.explain.layer import Explanation, explain
from quant_sweep.explain.recording import Subject

__all__ = ["Explanation", "Subject", "check_layer", "explain"]
