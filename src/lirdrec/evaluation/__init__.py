"""All-ranking evaluation."""
