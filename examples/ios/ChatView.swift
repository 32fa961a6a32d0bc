import SwiftUI
import Tollgate
import TollgateUI

/// A chat: what was said, the answer that is coming, a field to type in, and the paywall once a limit is reached.
struct ChatView: View {
    let tollgate: TollgateClient
    @State private var conversation: Conversation
    @State private var text = ""
    @State private var me: Me?

    init(tollgate: TollgateClient) {
        self.tollgate = tollgate
        _conversation = State(wrappedValue: Conversation(tollgate, system: "Be brief."))
    }

    var body: some View {
        NavigationStack {
            VStack {
                if let limit = me?.tightest { LimitBar(limit: limit) }
                List(conversation.messages, id: \.self) { message in
                    Text(message.text).foregroundStyle(message.role == "user" ? .secondary : .primary)
                }
                if let problem = conversation.problem { Text(problem.message).foregroundStyle(.red) }
                HStack {
                    TextField("Ask something", text: $text).onSubmit(send)
                    if conversation.isAnswering {
                        Button("Stop", systemImage: "stop.circle") { conversation.stop() }
                    } else {
                        Button("Send", systemImage: "arrow.up.circle", action: send).disabled(text.isEmpty)
                    }
                }
                .padding()
            }
            .navigationTitle("Chat")
        }
        .sheet(item: $conversation.paywall) { Paywall(tollgate: tollgate, refusal: $0) }
        .task { await refresh() }
    }

    private func send() {
        conversation.send(text)
        text = ""
        Task {
            await conversation.finished()
            await refresh()
        }
    }

    /// The bar is a comfort: a chat goes on without it.
    private func refresh() async {
        me = try? await tollgate.me()
    }
}

/// How much of the tightest limit is used.
struct LimitBar: View {
    let limit: Limit

    var body: some View {
        VStack {
            ProgressView(value: limit.fraction ?? 0)
            Text("\(limit.used.description) of \(limit.limit.description) \(limit.unit) this \(limit.per)").foregroundStyle(.secondary)
        }
        .padding()
    }
}
