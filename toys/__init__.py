"""Small networks trained by every method, and what they sample against the truth."""
