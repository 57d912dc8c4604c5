"""Networks: stacked layers, the recurrent scan, the context encoder, the model, the policy."""
