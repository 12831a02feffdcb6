"""The campaign: what is foreign, damaged or nonsense, tried in numbers; see docs/campaign.md."""
