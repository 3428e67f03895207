"""The job queue on the worker's side, and the only place that imports Celery and kombu.

`celery_app` is the Celery application and its consumer, `transport` delivers the ids that the gateway queued in Redis,
`message` makes Celery messages of them, and `lease` keeps running jobs from being delivered again.
"""
