import Foundation
import Observation
import Tollgate

/// A conversation as a view shows it. Make one for each chat, and keep it in `@State`.
@available(iOS 17, macOS 14, tvOS 17, watchOS 10, visionOS 1, *)
@MainActor @Observable
public final class Conversation {
    /// What was said, the answer that is coming among it.
    public private(set) var messages: [Message] = []
    /// An answer is coming.
    public private(set) var isAnswering = false
    /// A limit is reached: show it with `.sheet(item:)`.
    public var paywall: TollgateError?
    /// What else went wrong.
    public var problem: TollgateError?
    /// The answer that is coming, or was left: store it, and give it to `resume` when the app is back.
    public private(set) var ticket: Ticket?

    private let client: TollgateClient
    private let system: String?
    private var task: Task<Void, Never>?

    /// - Parameter system: what the model is told before everything else; better a prompt on the server, which nobody can read
    public init(_ client: TollgateClient, system: String? = nil) {
        self.client = client
        self.system = system
    }

    /// Says something, and shows the answer as it comes.
    public func send(_ text: String) {
        guard !isAnswering else { return }
        messages.append(.user(text))
        let told = (system.map { [Message.system($0)] } ?? []) + messages
        follow(client.stream(told))
    }

    /// Goes on with an answer of an earlier run of the app.
    public func resume(_ ticket: Ticket) {
        guard !isAnswering else { return }
        follow(client.resume(ticket))
    }

    /// Ends the answer that is coming. What has come stays, and the model is cut off.
    public func stop() {
        task?.cancel()
    }

    /// Waits until nothing is coming any more.
    public func finished() async {
        await task?.value
    }

    private func follow(_ stream: AnswerStream) {
        (isAnswering, paywall, problem) = (true, nil, nil)
        messages.append(.assistant(""))
        let place = messages.count - 1
        task = Task {
            do {
                for try await piece in stream {
                    messages[place] = .assistant(piece.text)
                    ticket = stream.ticket
                }
                ticket = nil
            } catch let error as TollgateError {
                if error.advice == .paywall { paywall = error } else { problem = error }
                ticket = error.advice == .connection ? stream.ticket : nil
            } catch {
                // It was stopped. The model goes on until it hears of it.
                let stopped = stream
                Task.detached { try? await stopped.stop() }
                ticket = nil
            }
            if messages[place].text.isEmpty { messages.remove(at: place) }
            isAnswering = false
        }
    }
}
