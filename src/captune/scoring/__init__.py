"""What surrounds the metrics: captions scored, systems compared, the best and worst pairs."""
