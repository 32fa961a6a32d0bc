import Foundation

/// A piece of an answer: what is new, and the text so far. To show `text` is right after a resume, too.
public struct Piece: Sendable, Hashable {
    public let delta: String
    public let text: String
}

/// What is needed to go on with an answer later, also after the app was closed. Store it with the message.
public struct Ticket: Codable, Sendable, Hashable {
    /// The request's `Idempotency-Key`.
    public let key: String
    let path: String
    let body: Data
    let feature: String?
    /// The id of the ledger's row, once the head has come.
    public internal(set) var id: String?
    /// How many events there are of it.
    public internal(set) var events = 0
    public internal(set) var text = ""
}

/// An answer as it comes. A loop over it ends only where the answer is whole: whatever else happens throws. Leaving the loop
/// closes the connection, and the server keeps the answer for a resume.
public struct AnswerStream: AsyncSequence, Sendable {
    public typealias Element = Piece

    let client: TollgateClient
    let state: State

    init(client: TollgateClient, ticket: Ticket) {
        self.client = client
        state = State(ticket)
    }

    /// How far it has come. Store it whenever you like; `TollgateClient.resume(_:)` goes on from there.
    public var ticket: Ticket { state.read { $0.ticket } }

    /// The id of the ledger's row, once the head has come.
    public var requestID: String? { state.read { $0.ticket.id } }

    /// Why it ended, in OpenAI's words, once it has.
    public var finishReason: String? { state.read { $0.finishReason } }

    /// Cuts the model off; what was delivered is charged.
    public func stop() async throws {
        guard let id = requestID else { return }
        try await client.stop(id)
    }

    /// Reads all of it.
    public func text() async throws -> String {
        for try await _ in self {}
        return ticket.text
    }

    public func makeAsyncIterator() -> Iterator { Iterator(stream: self) }

    final class State: @unchecked Sendable {
        struct Values {
            var ticket: Ticket
            var finishReason: String?
        }
        private let lock = NSLock()
        private var values: Values

        init(_ ticket: Ticket) { values = Values(ticket: ticket) }

        func read<T>(_ look: (Values) -> T) -> T { lock.withLock { look(values) } }
        func change(_ change: (inout Values) -> Void) { lock.withLock { change(&values) } }
    }

    public struct Iterator: AsyncIteratorProtocol {
        let stream: AnswerStream
        private var exchange: Exchange?
        private var events = Events()
        private var pause = Pause()
        private var isBegun = false
        private var isDone = false

        init(stream: AnswerStream) { self.stream = stream }

        public mutating func next() async throws -> Piece? {
            if !isBegun {
                isBegun = true
                let text = stream.ticket.text
                if !text.isEmpty { return Piece(delta: "", text: text) }
            }
            while !isDone {
                do {
                    if let piece = try await advance() { return piece }
                } catch var error as TollgateError {
                    exchange = nil
                    isDone = true
                    error.partialText = stream.ticket.text
                    let mayGoOn = error.advice == .connection || (error.code == "answer_gone" && error.seconds != nil)
                    guard mayGoOn, try await pause.wait(within: stream.client.resumeFor) else { throw error }
                    isDone = false
                }
            }
            return nil
        }

        /// Reads on until there is a piece, or the answer is whole.
        private mutating func advance() async throws -> Piece? {
            let exchange = if let exchange { exchange } else { try await open() }
            while true {
                if let data = events.next() {
                    pause = Pause()
                    stream.state.change { $0.ticket.events += 1 }
                    if data == "[DONE]" {
                        isDone = true
                        self.exchange = nil
                        return nil
                    }
                    if let piece = try take(data) { return piece }
                } else if let bytes = try await exchange.next() {
                    events.append(bytes)
                } else {
                    throw TollgateError.lost()
                }
            }
        }

        private mutating func open() async throws -> Exchange {
            let opened = try await stream.client.open(stream.ticket)
            events = Events()
            exchange = opened
            if let id = opened.head.value(forHTTPHeaderField: "X-Request-Id") { stream.state.change { $0.ticket.id = id } }
            return opened
        }

        private func take(_ data: String) throws -> Piece? {
            struct Event: Decodable {
                struct Choice: Decodable {
                    struct Delta: Decodable { let content: String? }
                    let index: Int?
                    let delta: Delta?
                    let finishReason: String?
                }
                let choices: [Choice]?
                let error: JSON?
            }
            let bytes = Data(data.utf8)
            guard let event = try? JSONDecoder.tollgate.decode(Event.self, from: bytes) else { return nil }
            if let error = event.error, error != .null {
                let usual = TollgateError(code: "upstream_error", message: "The answer broke off.", status: 200, requestID: stream.requestID)
                throw TollgateError.parsed(bytes, otherwise: usual)
            }
            let choice = event.choices?.first { ($0.index ?? 0) == 0 }
            let delta = choice?.delta?.content ?? ""
            stream.state.change {
                if let reason = choice?.finishReason { $0.finishReason = reason }
                $0.ticket.text += delta
            }
            return delta.isEmpty ? nil : Piece(delta: delta, text: stream.ticket.text)
        }
    }
}

/// Longer and longer breaks between tries, for a time.
struct Pause {
    private var since = Date()
    private var tries = 0

    /// Waits; false once it has been tried for long enough.
    mutating func wait(within longest: Duration) async throws -> Bool {
        guard Duration.seconds(Date().timeIntervalSince(since)) < longest else { return false }
        try await Task.sleep(for: .milliseconds(min(250 << min(tries, 5), 5_000)))
        tries += 1
        return true
    }
}
