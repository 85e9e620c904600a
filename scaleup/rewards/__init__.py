"""One file a reward; `contract/` is what they keep to and how they are found."""
