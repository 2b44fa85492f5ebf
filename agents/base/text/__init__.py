"""Language models as policies: tokenizers, the embedded character model, models of Hugging Face,
and the arrays on which learners of text work."""
