"""KEDA's external push scaler: answers by gRPC how many replicas of an app are planned, read from the topic `plans`.

`triggers` reads the metadata of a ScaledObject's trigger, `board` has the newest plan of each app and `follower` fills
it, `service` answers and `listener` says where. `externalscaler.proto` is KEDA's; the modules `externalscaler_pb2` and
`externalscaler_pb2_grpc` are generated from it by `make proto`. All of it needs the extra `leadtime[keda]`.
"""
