"""Whole models ported from torch to Flax NNX, rightly and with the mistakes that people make: what
`parity.verify_model` says of each.
"""

from evidence.ports import lstm, resnet, transformers

RESNET = resnet.SMALL
WHOLE = resnet.WHOLE
VIT = transformers.vit(width=8, heads=2, depth=2, pixels=8, patch=4, batch=2)
GPT = transformers.gpt(words=11, length=5, width=8, heads=2, depth=2, batch=2)
LSTM = lstm.ported(words=11, width=6, length=5, batch=3)
MODELS = (RESNET, VIT, GPT, LSTM)
