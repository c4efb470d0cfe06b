// Package driverkit is what a Sallyport driver needs besides its own work: it serves gRPC services on a Unix
// socket that only the gateway's user can reach, with the connection settings gateways of both generations
// expect, and stops in order. It owns the socket and the server; it must not know what a driver does.
//
// A driver is a service implementation and one call:
//
//	err := driverkit.Serve(ctx, driverkit.Options{Socket: path, Logger: logger}, func(s *grpc.Server) {
//		computepb.RegisterComputeDriverServer(s, myDriver)
//	})
//
// Package driverkit/computetest checks that a compute driver keeps the contract.
package driverkit
