"""The Serverless engine far away: what it is told, what it is asked for."""
