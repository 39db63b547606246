"""What a run says: logs while it trains, predictions, results and tables after."""
