"""slmops_utils: distil a large language model into a small one, and measure what was kept.

The package shows the road a record travels, and a folder never imports one further down the list:
records, tasks, models, synthesize, distill, evaluate, classroom. Import what you use from those folders;
nothing heavy (torch, transformers) is imported until a function needs it.
"""

__version__ = "0.1.0"
