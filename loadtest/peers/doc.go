// Package peers measures the gateway and the columnar writer beside what others
// would have used in their place: nats-server's own MQTT listener, a bare
// JetStream publisher, a bare insert, a plain consumer, Telegraf, other
// decoders. All of them get the same messages from the same client, on the same
// machine and in the same run, so that the ratios travel where absolute figures
// do not. It also measures what a node alone does over time: Parts and Delay.
package peers
