"""The record: vocabulary, canonical bytes, the store and its one commit, call states, and the Merkle log."""
