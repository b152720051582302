"""One layer, step by step, with this network's own numbers.

`layer` computes and `explanation` holds the result; `page` puts it into words, tables and pictures, a document that
`quant_sweep.report` renders.
"""

from quant_sweep.explain.dataflow import check_layer
from quant_sweep.explain.explanation import Explanation
from quant_sweep.explain.layer import Subject, explain

__all__ = ["Explanation", "Subject", "check_layer", "explain"]
